//! The comparison model as real threads, for the checkers that run real code: the same functions over the
//! locks and atomics of each.

/// Makes a function `run(clients, iommus, fixed)` over the types of `$checker`.
macro_rules! threads_model {
    ($checker:ident) => {
        use $checker::sync::atomic::{AtomicBool, Ordering::SeqCst};
        use $checker::sync::{Arc, Condvar, Mutex};
        use $checker::thread;

        struct Client {
            iommu: usize,
            group_lock: Mutex<()>,
            group: AtomicBool,
            domain: AtomicBool,
            dma: AtomicBool,
        }

        struct World {
            probe_lock: Mutex<()>,
            published: Vec<AtomicBool>,
            clients: Vec<Client>,
            /// A bit for each deferred client.
            deferred: Mutex<u32>,
            kick: Condvar,
            fixed: bool,
        }

        fn setup_domain(client: &Client) {
            if !client.domain.load(SeqCst) {
                client.domain.store(true, SeqCst);
            }
        }

        fn register(w: &World, iommu: usize) {
            let own = || w.clients.iter().filter(|client| client.iommu == iommu);
            let guard = w.probe_lock.lock().unwrap();
            w.published[iommu].store(true, SeqCst);
            drop(guard);
            for client in own() {
                let _guard = w.probe_lock.lock().unwrap();
                if !client.group.load(SeqCst) {
                    client.group.store(true, SeqCst);
                }
            }
            for client in own() {
                let guard = client.group_lock.lock().unwrap();
                setup_domain(client);
                drop(guard);
                client.dma.store(true, SeqCst);
            }
            let _guard = w.probe_lock.lock().unwrap();
            *w.deferred.lock().unwrap() = 0;
            w.kick.notify_all();
        }

        /// Whether the client is to try again.
        fn attempt(w: &World, d: usize) -> bool {
            let client = &w.clients[d];
            let guard = w.probe_lock.lock().unwrap();
            if !w.published[client.iommu].load(SeqCst) {
                *w.deferred.lock().unwrap() |= 1 << d;
                drop(guard);
                let mut deferred = w.deferred.lock().unwrap();
                while *deferred >> d & 1 == 1 {
                    deferred = w.kick.wait(deferred).unwrap();
                }
                return true;
            }
            let early = client.group.load(SeqCst);
            if early {
                drop(guard);
                if w.fixed {
                    let _guard = client.group_lock.lock().unwrap();
                    setup_domain(client);
                    client.dma.store(true, SeqCst);
                }
            } else {
                client.group.store(true, SeqCst);
                let _guard = client.group_lock.lock().unwrap();
                setup_domain(client);
                client.dma.store(true, SeqCst);
            }
            assert!(client.dma.load(SeqCst), "direct DMA");
            false
        }

        /// One execution.
        pub fn run(clients: usize, iommus: usize, fixed: bool) {
            let world = Arc::new(World {
                probe_lock: Mutex::new(()),
                published: (0..iommus).map(|_| AtomicBool::new(false)).collect(),
                clients: (0..clients)
                    .map(|d| Client {
                        iommu: d % iommus,
                        group_lock: Mutex::new(()),
                        group: AtomicBool::new(false),
                        domain: AtomicBool::new(false),
                        dma: AtomicBool::new(false),
                    })
                    .collect(),
                deferred: Mutex::new(0),
                kick: Condvar::new(),
                fixed,
            });
            let threads: Vec<_> = (0..clients)
                .map(|d| {
                    let w = Arc::clone(&world);
                    thread::spawn(move || while attempt(&w, d) {})
                })
                .collect();
            (0..iommus).for_each(|m| register(&world, m));
            threads.into_iter().for_each(|t| t.join().unwrap());
        }
    };
}
pub(crate) use threads_model;
