//! Handwritten digits: a small network that scikit-learn has trained (`train.py`), run by plain matrices.
//!
//! `POST /digits` with `{"pixels": [64 numbers from 0 to 16]}` answers `{"digit": 7, "probabilities": [..]}`.

mod network;

use decurion::prelude::*;

use network::{Network, PIXELS};

/// The model's weights travel inside the library.
const MODEL: &str = include_str!("../data/model.json");

/// The deployment.
#[derive(Debug)]
pub struct Digits {
    network: Network,
}

/// What a client sends.
#[derive(Debug, Deserialize)]
struct Question {
    /// Row by row, 8 x 8, each from 0 (white) to 16 (black).
    pixels: Vec<f64>,
}

#[deployment]
impl Digits {
    fn new() -> Result<Self> {
        Ok(Self { network: Network::from_json(MODEL).map_err(Error::msg)? })
    }

    fn call(&self, req: Request) -> Result<Json<Value>> {
        let question: Question = req.json()?;
        let probabilities = self.probabilities(&question.pixels)?;
        Ok(Json(json!({ "digit": network::likeliest(&probabilities), "probabilities": probabilities })))
    }

    /// The digit, for handles.
    pub fn predict(&self, pixels: Vec<f64>) -> Result<usize> {
        Ok(network::likeliest(&self.probabilities(&pixels)?))
    }
}

impl Digits {
    fn probabilities(&self, pixels: &[f64]) -> Result<Vec<f64>> {
        if pixels.len() != PIXELS || pixels.iter().any(|pixel| !(0.0..=16.0).contains(pixel)) {
            return Err(Error::status(
                422,
                format!("pixels: {PIXELS} numbers from 0 to 16, not {}", pixels.len()),
            ));
        }
        Ok(self.network.run(pixels))
    }
}
