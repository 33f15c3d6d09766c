//! The library's measurements on their way to the supervisor. No timer: they go when the next one is measured, and when
//! the supervisor asks for a sign of life or for health.

use std::sync::{MutexGuard, PoisonError};

use decurion_abi::{level, status};
use decurion_ipc::control::ReplicaReport;

use crate::meter::Meter;
use crate::sys::clock::now_ns;
use crate::sys::runner::Runner;

impl Runner {
    /// Measures for the library; what it is told.
    pub(crate) fn measure(&self, kind: u32, name: &str, labels: Vec<(&str, &str)>, value: f64) -> i32 {
        let now = now_ns();
        let mut meter = self.meter();
        match meter.measure(kind, name, labels, value, now) {
            Ok(is_due) => {
                if is_due {
                    self.report(&mut meter, now);
                }
                status::OK
            }
            Err(refused) => {
                drop(meter);
                if let Some(complaint) = refused.complaint {
                    self.outbox.log(level::WARN, "decurion", None, complaint);
                }
                refused.status
            }
        }
    }

    /// Tells the supervisor what is new.
    pub(crate) fn tell_metrics(&self) {
        self.report(&mut self.meter(), now_ns());
    }

    /// Tells a supervisor that knows nothing.
    pub(crate) fn tell_all_metrics(&self) {
        let mut meter = self.meter();
        meter.forget_told();
        self.report(&mut meter, now_ns());
    }

    /// Under the lock, or an older report could come after a newer one.
    fn report(&self, meter: &mut Meter, now_ns: u64) {
        meter.tell(now_ns, |series| self.outbox.offer(&ReplicaReport::Metrics(series)));
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
