//! A deployment whose answer depends on its `user_config`: the threshold changes while it runs, without a restart.

use decurion::prelude::*;

/// Compares a fixed score with a threshold.
#[derive(Debug)]
pub struct Threshold {
    threshold: f64,
}

/// What `user_config` holds.
#[derive(Debug, Deserialize)]
pub struct Config {
    threshold: f64,
}

/// What the model of this example always says.
const SCORE: f64 = 0.5;

#[deployment]
impl Threshold {
    fn new() -> Self {
        Self { threshold: 0.01 }
    }

    fn call(&self, _req: Request) -> Json<Value> {
        Json(json!({ "above": self.is_above(SCORE), "pid": std::process::id() }))
    }

    /// Whether a score is above the threshold.
    pub fn is_above(&self, score: f64) -> bool {
        score > self.threshold
    }

    fn reconfigure(&mut self, config: Config) -> Result<()> {
        if !(0.0..=1.0).contains(&config.threshold) {
            return Err(Error::msg(format!("threshold is from 0 to 1, not {}", config.threshold)));
        }
        self.threshold = config.threshold;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use decurion::test::Local;

    use super::*;

    fn above(local: &Local<Threshold>) -> bool {
        let answer: Value = local.get("/").unwrap().json().unwrap();
        assert_eq!(answer["pid"], std::process::id());
        answer["above"] == true
    }

    #[test]
    fn a_new_threshold_flips_the_answer() {
        let local = Local::<Threshold>::new(()).unwrap();
        assert!(above(&local));
        local.reconfigure(json!({ "threshold": 0.99 })).unwrap();
        assert!(!above(&local));
        assert!(local.reconfigure(json!({ "threshold": 2.0 })).is_err());
        assert!(!above(&local));
    }
}
