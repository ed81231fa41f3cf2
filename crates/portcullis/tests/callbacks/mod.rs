//! What drivers' callbacks may do, and what happens when one panics.

use super::support::*;
use portcullis::*;
use portcullis_addr::StreamId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

type Act = Box<dyn Fn(Callback) + Send + Sync>;

/// A driver that does something of the test's in each callback.
struct Acting {
    act: Arc<Act>,
    handle: Mutex<Option<DmaHandle<Host>>>,
}

impl Acting {
    fn new(act: impl Fn(Callback) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { act: Arc::new(Box::new(act)), handle: Mutex::default() })
    }

    fn handle(&self) -> DmaHandle<Host> {
        self.handle.lock().expect("test").clone().expect("probed")
    }
}

struct Bound {
    act: Arc<Act>,
    /// Unmapped when the driver is dropped.
    _buffer: DmaBuffer<Host>,
}

impl Driver<Host> for Acting {
    fn name(&self) -> &str {
        "acting"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        *self.handle.lock().expect("test") = Some(dma.clone());
        let buffer = dma.allocate(4096)?;
        (self.act)(Callback::Probe);
        Ok(Box::new(Bound { act: Arc::clone(&self.act), _buffer: buffer }))
    }
}

impl BoundDriver for Bound {
    fn remove(&mut self) {
        (self.act)(Callback::Remove);
    }
    fn on_fault(&mut self, _: &Fault) {
        (self.act)(Callback::OnFault);
    }
}

fn fault(id: u32) -> Fault {
    let reason = FaultReason::Translation;
    Fault {
        stream: StreamId::new(id),
        reason,
        pasid: None,
        iova: None,
        access: None,
        stage: None,
        raw: [0; 4],
    }
}

/// Two devices of their own groups behind one IOMMU.
fn machine() -> (Arc<Sub>, [Arc<Device<Host>>; 2], Arc<Books>) {
    let sub = Arc::new(subsystem());
    let devices = [("/x", 1), ("/y", 2)]
        .map(|(path, id)| sub.add_device(behind(path, &[(A, id)])).expect("added"));
    let books = register(&sub, A);
    (sub, devices, books)
}

#[test]
fn calls_about_the_own_device_answer_at_once_and_everything_else_works() {
    let (sub, [x, y], books) = machine();
    let seen: Arc<Mutex<Vec<(Callback, DeviceStage)>>> = Arc::default();
    let driver = {
        let (sub, x, y, seen) =
            (Arc::downgrade(&sub), Arc::clone(&x), Arc::clone(&y), Arc::clone(&seen));
        Acting::new(move |callback| {
            let sub = sub.upgrade().expect("there");
            seen.lock().expect("test").push((callback, x.stage()));
            let again = sub.bind(&x, Arc::new(Keeper::default()));
            assert_eq!(again, Err(BindError::WithinCallback));
            assert_eq!(sub.unbind(&x), Err(BindError::WithinCallback));
            assert_eq!(sub.remove_device(&x), Err(BindError::WithinCallback));
            assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Busy));
            assert_eq!(sub.unregister(A), Err(UnregisterError::Busy { path: "/x".into() }));
            sub.run_deferred();
            assert_eq!(sub.reports().len(), 2);
            assert_eq!(sub.counts().devices, 2);
            assert_eq!(sub.drain_faults(A, |_, _| ()).faults, 0);
            let outcome = sub.bind(&y, Arc::new(Keeper::default()));
            assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
            assert_eq!(sub.unbind(&y), Ok(()));
        })
    };
    let outcome = sub.bind(&x, driver);
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    books.faults.lock().expect("books").push(fault(1));
    assert_eq!(sub.drain_faults(A, |_, _| ()).faults, 1);
    sub.unbind(&x).expect("bound");
    assert_eq!(
        *seen.lock().expect("test"),
        [
            (Callback::Probe, DeviceStage::Described),
            (Callback::OnFault, DeviceStage::Bound),
            (Callback::Remove, DeviceStage::Bound),
        ]
    );
    assert_eq!(x.stage(), DeviceStage::Described);
}

#[test]
fn a_retry_of_the_own_device_is_left_for_later() {
    let (sub, [x, _], _) = machine();
    let clock = FwNode(40);
    let weak = Arc::downgrade(&sub);
    let driver = Acting::new(move |callback| {
        let sub = weak.upgrade().expect("there");
        if callback == Callback::Probe {
            // Its own arrival wakes the device that is being probed.
            sub.announce(clock);
            let own = sub.run_deferred();
            assert_eq!((own, sub.counts().queued), (1, 1), "the group, and not the device");
        }
    });
    let late = Arc::new(Keeper::default());
    late.needs.lock().expect("test").push(clock);
    assert_eq!(sub.bind(&x, late), Ok(BindOutcome::Deferred(clock)));
    assert!(matches!(sub.bind(&x, driver), Ok(BindOutcome::Bound(_))));
    assert_eq!(sub.run_deferred(), 1);
    assert_eq!((sub.counts().queued, x.stage()), (0, DeviceStage::Bound));
}

/// A driver that panics in one callback.
fn panicking(at: Callback) -> Arc<Acting> {
    Acting::new(move |callback| assert_ne!(callback, at, "planned"))
}

fn quietly<R>(act: impl FnOnce() -> R) -> std::thread::Result<R> {
    catch_unwind(AssertUnwindSafe(act))
}

#[test]
pub(crate) fn a_driver_that_panics_loses_its_device_and_nobody_else_does() {
    for at in [Callback::Probe, Callback::OnFault, Callback::Remove] {
        let (sub, [x, y], books) = machine();
        sub.bind(&y, Arc::new(Keeper::default())).expect("tried");
        let driver = panicking(at);
        let bound = quietly(|| sub.bind(&x, driver.clone()));
        assert_eq!(bound.is_err(), at == Callback::Probe);
        let handle = driver.handle();
        if at == Callback::OnFault {
            books.faults.lock().expect("books").push(fault(1));
            assert!(quietly(|| sub.drain_faults(A, |_, _| ())).is_err());
        }
        if at == Callback::Remove {
            assert!(quietly(|| sub.unbind(&x)).is_err());
        }
        assert_eq!(x.stage(), DeviceStage::Failed(FailedReason::Panicked(at)));
        assert_eq!(sub.reports()[0].reach, Reach::Blocked);
        assert_eq!(books.target(1), None, "its streams are blocked");
        let refused = handle.map(Piece(0x9000_0000, 0x1000), Both).expect_err("void").error();
        assert_eq!(refused, DmaError::Revoked);
        let counts = sub.counts();
        assert_eq!((counts.bound, counts.mappings, counts.quarantined), (1, 0, 0), "{at}");
        assert_eq!(y.stage(), DeviceStage::Bound);
        assert!(matches!(books.target(2), Some(StreamTarget::Space(_))), "{at}");
        // And it can have another driver.
        let outcome = sub.bind(&x, Arc::new(Keeper::default()));
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)), "{at}");
        sub.unbind(&x).expect("bound");
    }
}

#[test]
fn a_driver_that_panics_when_it_is_dropped_loses_its_device_too() {
    struct Bomb;
    impl BoundDriver for Bomb {}
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("planned");
        }
    }
    struct Planter;
    impl Driver<Host> for Planter {
        fn name(&self) -> &str {
            "planter"
        }
        fn probe(
            &self,
            _: &ProbeContext<'_>,
            _: DmaHandle<Host>,
        ) -> Result<Box<dyn BoundDriver>, ProbeError> {
            Ok(Box::new(Bomb))
        }
    }
    let (sub, [x, _], books) = machine();
    sub.bind(&x, Arc::new(Planter)).expect("tried");
    assert!(quietly(|| sub.remove_device(&x)).is_err());
    assert_eq!(x.stage(), DeviceStage::Failed(FailedReason::Panicked(Callback::Remove)));
    assert_eq!((sub.counts().bound, books.target(1)), (0, None));
    assert_eq!(sub.remove_device(&x), Ok(()), "the second time it has no driver");
}

#[test]
fn in_a_group_of_two_a_panic_shuts_out_one() {
    let sub = Arc::new(subsystem());
    let x = sub.add_device(behind("/x", &[(A, 1), (A, 2)])).expect("added");
    let y = sub.add_device(behind("/y", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    sub.bind(&y, Arc::new(Keeper::default())).expect("tried");
    assert!(quietly(|| sub.bind(&x, panicking(Callback::Probe))).is_err());
    assert_eq!(books.target(2), None, "its own stream is blocked");
    assert!(matches!(books.target(1), Some(StreamTarget::Space(_))), "y needs the other");
    assert_eq!(y.stage(), DeviceStage::Bound);
    assert_eq!(sub.reports()[0].reach, Reach::Blocked);
}

#[test]
fn a_panic_loses_none_of_the_faults_behind_it() {
    let (sub, [x, y], books) = machine();
    sub.bind(&x, panicking(Callback::OnFault)).expect("tried");
    let other = Arc::new(Keeper::default());
    sub.bind(&y, other.clone()).expect("tried");
    books.faults.lock().expect("books").extend([fault(1), fault(2), fault(2)]);
    let mut told = 0;
    assert!(quietly(|| sub.drain_faults(A, |_, _| told += 1)).is_err());
    let again = sub.drain_faults(A, |_, _| told += 1);
    assert_eq!(again.faults, 3, "what the interrupted call had to say");
    assert_eq!(other.faults.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert_eq!(told, 2, "and the sink has them");
}
