//! A driver that leaves its handle where the test finds it.

use crate::world::Platform;
use portcullis::{BoundDriver, DmaHandle, Driver, ProbeContext, ProbeError};
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Keeper(pub(crate) Mutex<Option<DmaHandle<Platform>>>);

struct Nothing;

impl BoundDriver for Nothing {}

impl Driver<Platform> for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Platform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        *self.0.lock().expect("test") = Some(dma);
        Ok(Box::new(Nothing))
    }
}
