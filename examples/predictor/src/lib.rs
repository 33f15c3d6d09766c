//! One class deployed twice, as `rep_1` and `rep_2`, and called by a third deployment through handles.

use decurion::prelude::*;

/// Says yes or no.
#[derive(Debug)]
pub struct Predictor {
    threshold: f64,
}

/// A prediction, and which replica made it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Whether the data is above the threshold.
    pub above: bool,
    /// Of the replica.
    pub pid: u32,
}

#[deployment]
impl Predictor {
    fn new(threshold: f64) -> Self {
        Self { threshold }
    }

    /// Compares with the threshold.
    pub fn predict(&self, data: f64) -> Prediction {
        Prediction { above: data > self.threshold, pid: std::process::id() }
    }
}

/// Asks several predictors at once.
#[derive(Debug)]
pub struct Ensemble {
    predictors: Vec<Handle>,
}

#[deployment]
impl Ensemble {
    fn new(predictors: Vec<Handle>) -> Result<Self> {
        if predictors.is_empty() {
            return Err(Error::msg("an ensemble needs at least one predictor"));
        }
        Ok(Self { predictors })
    }

    fn call(&self, req: Request) -> Result<Json<Vec<Prediction>>> {
        let data =
            req.query_param("data").ok_or_else(|| Error::status(400, "the query lacks data=NUMBER"))?;
        let data = data.parse().map_err(|_| Error::status(400, "data is a number"))?;
        self.predict(data).map(Json)
    }

    /// One prediction of each, in the order of the constructor's argument.
    pub fn predict(&self, data: f64) -> Result<Vec<Prediction>> {
        let calls: Vec<_> = self
            .predictors
            .iter()
            .map(|predictor| predictor.start("predict", (data,)))
            .collect::<Result<_>>()?;
        calls.into_iter().map(|call| call.wait()).collect()
    }
}

#[cfg(test)]
mod tests {
    use decurion::test::LocalApp;

    use super::*;

    #[test]
    fn an_ensemble_asks_each_of_its_predictors() {
        let app = LocalApp::new();
        app.deploy::<Predictor>("rep_1", [0.3]).unwrap();
        app.deploy::<Predictor>("rep_2", [0.6]).unwrap();
        let ensemble =
            app.deploy::<Ensemble>("ensemble", json!({ "predictors": ["@rep_1", "@rep_2"] })).unwrap();
        let answer: Vec<Prediction> = ensemble.get("/?data=0.5").unwrap().json().unwrap();
        assert_eq!(answer.iter().map(|prediction| prediction.above).collect::<Vec<_>>(), [true, false]);
        assert_eq!(ensemble.get("/?data=x").unwrap().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn an_ensemble_of_none_is_refused() {
        let error = LocalApp::new().deploy::<Ensemble>("ensemble", json!({ "predictors": [] })).unwrap_err();
        assert_eq!(error.message(), "an ensemble needs at least one predictor");
    }
}
