//! Is a tumour malignant? Four classes that a graph puts together: scale the features, ask a tree ensemble and a
//! network, take the mean.

mod boosted;
mod network;

use decurion::prelude::*;

pub use boosted::{BoostedTrees, TreesError};

const SCALER: &str = include_str!("../data/scaler.json");
const TREES: &str = include_str!("../data/trees.txt");
const NETWORK: &[u8] = include_bytes!("../data/network.onnx");

/// Brings every feature to the scale that the models were trained on.
#[derive(Debug, Deserialize)]
pub struct Preprocess {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

#[deployment]
impl Preprocess {
    fn new() -> Result<Self> {
        Ok(decurion::serde_json::from_str(SCALER)?)
    }

    /// Single precision is what both models take.
    pub fn scale(&self, features: Vec<f64>) -> Result<Vec<f32>> {
        if features.len() != self.mean.len() {
            let (given, wanted) = (features.len(), self.mean.len());
            return Err(Error::status(
                422,
                format_args!("{given} features were given, and {wanted} are needed"),
            ));
        }
        let of = self.mean.iter().zip(&self.scale);
        #[expect(clippy::cast_possible_truncation, reason = "single precision is meant")]
        Ok(features.iter().zip(of).map(|(value, (mean, scale))| ((value - mean) / scale) as f32).collect())
    }
}

/// The tree ensemble.
#[derive(Debug)]
pub struct Trees {
    model: BoostedTrees,
}

#[deployment]
impl Trees {
    fn new() -> Result<Self> {
        Ok(Self { model: TREES.parse()? })
    }

    /// Probability of being benign.
    pub fn predict(&self, scaled: Vec<f32>) -> f64 {
        self.model.probability(&scaled)
    }
}

/// The network.
#[derive(Debug)]
pub struct Network {
    model: network::Onnx,
}

#[deployment]
impl Network {
    fn new() -> Result<Self> {
        Ok(Self { model: network::Onnx::load(NETWORK)? })
    }

    /// Probability of being benign.
    pub fn predict(&self, scaled: Vec<f32>) -> Result<f64> {
        self.model.probability(&scaled)
    }
}

/// What the ensemble says.
#[derive(Debug, Deserialize, Serialize)]
pub struct Answer {
    /// Whether it is malignant.
    pub malignant: bool,
    /// Probability of being benign.
    pub benign: f64,
}

/// The mean of the models.
#[derive(Debug, Default)]
pub struct Combine;

#[deployment]
impl Combine {
    /// Each is a probability of being benign.
    pub fn mean(&self, benign: Vec<f64>) -> Result<Answer> {
        if benign.is_empty() {
            return Err(Error::status(422, "there is nothing to combine"));
        }
        #[expect(clippy::cast_precision_loss, reason = "a handful of models")]
        let mean = benign.iter().sum::<f64>() / benign.len() as f64;
        Ok(Answer { malignant: mean <= 0.5, benign: mean })
    }
}

#[cfg(test)]
mod tests;
