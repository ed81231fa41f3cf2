//! The threads of a world, on a fresh stage.

use crate::ours::promises;
use crate::ours::stage::Stage;
use crate::ours::world::{Event, Grain, World};
use std::sync::Arc;

impl World {
    /// Fills an exploration's world with the shipped code.
    pub fn build(&self, w: &mut portcullis_threads::World) {
        let stage = Arc::new(Stage::new(self));
        (0..self.iommus - self.absent).for_each(|index| self.add_iommu(index, &stage, w));
        if let Some(buffers) = self.warm {
            stage.warm_up(0, buffers, self.kept);
        }
        for (index, client) in self.clients.iter().enumerate() {
            if !client.driverless {
                self.add_client(index, &stage, w);
            }
        }
        self.events.iter().for_each(|event| self.add_event(*event, &stage, w));
        if self.worker {
            let stage = Arc::clone(&stage);
            w.daemon("worker", move || stage.sub.serve_deferred(|| false));
        }
        promises::at_end(self, &stage, w);
    }

    fn add_iommu(&self, index: usize, stage: &Arc<Stage>, w: &mut portcullis_threads::World) {
        let (worker, rounds) = (self.worker, self.rounds);
        let served = self.grain < Grain::Registers;
        if served {
            stage.register(index);
        }
        let stage = Arc::clone(stage);
        w.thread(format!("iommu {index}"), move || {
            if !served {
                stage.register(index);
            }
            for _ in 0..rounds {
                if stage.unregister(index) {
                    stage.register(index);
                }
            }
            if !worker {
                stage.sub.run_deferred();
            }
        });
    }

    fn add_client(&self, index: usize, stage: &Arc<Stage>, w: &mut portcullis_threads::World) {
        let (stage, rounds) = (Arc::clone(stage), self.rounds);
        w.thread(format!("client {index}"), move || {
            stage.bind(index);
            for _ in 0..rounds {
                stage.unbind(index);
                stage.bind(index);
            }
        });
    }

    fn add_event(&self, event: Event, stage: &Arc<Stage>, w: &mut portcullis_threads::World) {
        let (stage, worker) = (Arc::clone(stage), self.worker);
        if let Event::UnbindUnanswered(index) = event {
            // Binding beside a registration is what other worlds are about.
            stage.bind(index);
        }
        w.thread(format!("{event:?}"), move || {
            match event {
                Event::Unplug(index) => return stage.unplug(index),
                Event::Bind(index) => return stage.bind(index),
                Event::Rogue(index) => return stage.rogue(index),
                Event::Use(index) => return stage.use_handle(index),
                Event::UseLazily(index) => return stage.use_handle_lazily(index),
                // What follows leaves deferred work behind: a refused unregistration puts its groups back in the queue, for instance.
                Event::Unregister(index) => drop(stage.unregister(index)),
                Event::Rebind(index) => stage.rebind(index),
                Event::Claim(index) => stage.claim(index),
                Event::UnbindUnanswered(index) => stage.unbind_unanswered(index),
            }
            if !worker {
                stage.sub.run_deferred();
            }
        });
    }
}
