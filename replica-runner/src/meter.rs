//! What the library measures, added up here and told to the supervisor now and then. Pure: whoever measures says when
//! it is, and sends what is to be sent.

use decurion_abi::{metric, status};
use decurion_ipc::metrics::{Measure, NotMeasured, Series, SeriesSet};

/// Reports are this far apart, unless the supervisor asks.
const PERIOD_NS: u64 = 1_000_000_000;
/// Series in one report, at most: however long their names, they fit into a packet.
const REPORT_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    set: SeriesSet,
    /// There is something that the supervisor was not told.
    news: bool,
    due_ns: u64,
    /// What was refused and complained of, one bit for each reason: a library that does it once does it often.
    complained: u8,
}

/// A refusal: what the library is told, and what the log is, the first time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: i32,
    pub(crate) complaint: Option<String>,
}

impl Meter {
    /// Measures. True: it is time to tell the supervisor.
    pub(crate) fn measure(
        &mut self,
        kind: u32,
        name: &str,
        mut labels: Vec<(&str, &str)>,
        value: f64,
        now_ns: u64,
    ) -> Result<bool, Refused> {
        labels.sort_unstable();
        if !metric::is_name(kind, name) {
            return Err(self.refuse(0, status::INVALID, name, "no name for such a metric"));
        }
        let good = labels.len() <= metric::LABELS_MAX
            && labels.iter().all(|(name, value)| metric::is_label(name, value))
            && labels.is_sorted_by(|one, next| one.0 < next.0);
        if !good {
            return Err(self.refuse(1, status::INVALID, name, "its labels can't stand"));
        }
        let measure = match kind {
            metric::COUNTER => Measure::Add(value),
            metric::GAUGE => Measure::Set(value),
            metric::HISTOGRAM => Measure::Record(value),
            _ => return Err(self.refuse(2, status::INVALID, name, "there is no such kind of metric")),
        };
        if !metric::is_value(kind, value) {
            return Err(self.refuse(3, status::INVALID, name, "its value is no number, or below 0"));
        }
        if let Err(why) = self.set.measure(metric::stem(kind, name), &labels, measure) {
            let (bit, status) = match why {
                NotMeasured::Kind => (4, status::INVALID),
                NotMeasured::Range => (5, status::INVALID),
                NotMeasured::Full => (6, status::BUSY),
            };
            return Err(self.refuse(bit, status, name, &why.to_string()));
        }
        self.news = true;
        Ok(self.due_ns <= now_ns)
    }

    fn refuse(&mut self, bit: u8, status: i32, name: &str, why: &str) -> Refused {
        let first = self.complained & (1 << bit) == 0;
        self.complained |= 1 << bit;
        let name: String = name.chars().take(metric::NAME_MAX).collect();
        let complaint = first
            .then(|| format!("the metric '{name}' is not taken: {why}; of its like no more will be said"));
        Refused { status, complaint }
    }

    /// A supervisor is there that knows nothing.
    pub(crate) fn forget_told(&mut self) {
        self.news = !self.set.all().is_empty();
    }

    /// Tells what there is, where there is news. What `send` does not take is tried again the next time.
    pub(crate) fn tell(&mut self, now_ns: u64, mut send: impl FnMut(Vec<Series>) -> bool) {
        self.due_ns = now_ns.saturating_add(PERIOD_NS);
        if self.news {
            self.news = !self.set.all().chunks(REPORT_MAX).all(|some| send(some.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(meter: &mut Meter, name: &str, now_ns: u64) -> Result<bool, Refused> {
        meter.measure(metric::COUNTER, name, Vec::new(), 1.0, now_ns)
    }

    #[test]
    fn it_is_told_once_a_second_and_only_news() {
        let mut meter = Meter::default();
        assert_eq!(count(&mut meter, "a_total", 5), Ok(true));
        let mut told = Vec::new();
        meter.tell(5, |series| {
            told.extend(series);
            true
        });
        assert_eq!((told.len(), told[0].name.as_str()), (1, "a"));
        meter.tell(6, |_| panic!("nothing new"));
        assert_eq!(count(&mut meter, "a", 7), Ok(false));
        assert_eq!(count(&mut meter, "a", 6 + PERIOD_NS), Ok(true));
        meter.tell(8, |_| false);
        let mut again = 0;
        meter.tell(9, |_| {
            again += 1;
            true
        });
        assert_eq!(again, 1, "what was not sent");
        meter.forget_told();
        meter.tell(10, |_| {
            again += 1;
            true
        });
        assert_eq!(again, 2, "to who knows nothing");
    }

    #[test]
    fn a_report_fits_into_a_packet() {
        let mut meter = Meter::default();
        for number in 0..decurion_ipc::metrics::SERIES_MAX {
            let name = format!("{}{number}", "n".repeat(metric::NAME_MAX - 3));
            let names: Vec<String> = (0..metric::LABELS_MAX)
                .map(|at| format!("{}{at}", "l".repeat(metric::NAME_MAX - 1)))
                .collect();
            let long = "v".repeat(metric::VALUE_MAX);
            let labels = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
            meter.measure(metric::HISTOGRAM, &name, labels, 1.0, 0).unwrap();
        }
        let mut sent = 0;
        meter.tell(0, |series| {
            sent += series.len();
            let report = decurion_ipc::control::ReplicaReport::Metrics(series);
            decurion_ipc::codec::encode(&report).is_ok()
        });
        assert_eq!(sent, decurion_ipc::metrics::SERIES_MAX);
        assert!(!meter.news);
    }

    #[test]
    fn what_is_refused_is_said_once() {
        let mut meter = Meter::default();
        for name in ["", "1a", "a-b", "decurion_x", "a:b"] {
            assert_eq!(count(&mut meter, name, 0).map_err(|refused| refused.status), Err(status::INVALID));
        }
        assert_eq!(count(&mut meter, "", 0).unwrap_err().complaint, None);
        let mut gauge = |labels: &[(&'static str, &'static str)], value| {
            meter.measure(metric::GAUGE, "g", labels.to_vec(), value, 0)
        };
        for labels in [&[("replica", "x")][..], &[("le", "x")], &[("a", "1"), ("a", "2")], &[("", "x")]] {
            assert!(gauge(labels, 1.0).is_err(), "{labels:?}");
        }
        assert!(gauge(&[], f64::NAN).unwrap_err().complaint.is_some());
        assert!(gauge(&[], -1.0).is_ok());
        assert!(meter.measure(metric::HISTOGRAM, "h", Vec::new(), -1.0, 0).is_err());
        assert!(meter.measure(3, "k", Vec::new(), 1.0, 0).is_err());
        assert!(meter.measure(metric::GAUGE, "x_count", Vec::new(), 1.0, 0).is_err());
    }
}
