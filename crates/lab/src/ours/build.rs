//! The threads of a world, on a fresh stage.

use crate::ours::promises;
use crate::ours::stage::Stage;
use crate::ours::world::{Event, World};
use std::sync::Arc;

impl World {
    /// Fills an exploration's world with the shipped code.
    pub fn build(&self, w: &mut portcullis_threads::World) {
        let stage = Arc::new(Stage::new(self));
        (0..self.iommus).for_each(|index| self.add_iommu(index, &stage, w));
        (0..self.clients.len()).for_each(|index| self.add_client(index, &stage, w));
        self.events.iter().for_each(|event| self.add_event(*event, &stage, w));
        if self.worker {
            let stage = Arc::clone(&stage);
            w.daemon("worker", move || stage.sub.serve_deferred(|| false));
        }
        promises::at_end(self, &stage, w);
    }

    fn add_iommu(&self, index: usize, stage: &Arc<Stage>, w: &mut portcullis_threads::World) {
        let (worker, rounds, fine) = (self.worker, self.rounds, self.fine);
        if !fine {
            stage.register(index);
        }
        let stage = Arc::clone(stage);
        w.thread(format!("iommu {index}"), move || {
            if fine {
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
        w.thread(format!("{event:?}"), move || match event {
            Event::Unplug(index) => stage.unplug(index),
            Event::Unregister(index) => {
                stage.unregister(index);
                // One that was refused has put its groups back in the queue.
                if !worker {
                    stage.sub.run_deferred();
                }
            }
            Event::Bind(index) => stage.bind(index),
        });
    }
}
