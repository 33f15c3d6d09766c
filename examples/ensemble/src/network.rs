//! A classifier in ONNX, run by tract.

use decurion::prelude::*;
use tract_onnx::prelude::*;

type Plan = TypedSimplePlan<TypedModel>;

/// A model, optimised for one row at a time.
#[derive(Debug)]
pub(crate) struct Onnx {
    plan: Plan,
}

/// What scikit-learn's converter calls the second output; the first is the label.
const PROBABILITIES: &str = "probabilities";
const FEATURES: usize = 30;

impl Onnx {
    pub(crate) fn load(bytes: &[u8]) -> Result<Self> {
        let plan = read(bytes)
            .map_err(|error| Error::msg(format_args!("the network can't be loaded: {error:#}")))?;
        Ok(Self { plan })
    }

    /// Probability of the class 1.
    pub(crate) fn probability(&self, features: &[f32]) -> Result<f64> {
        let run = self
            .run(features)
            .map_err(|error| Error::msg(format_args!("the network can't be run: {error:#}")));
        run?.ok_or_else(|| Error::msg("the network does not tell two classes apart"))
    }

    fn run(&self, features: &[f32]) -> TractResult<Option<f64>> {
        let row: Tensor =
            tract_ndarray::Array2::from_shape_vec((1, features.len()), features.to_vec())?.into();
        let outputs = self.plan.run(tvec!(row.into()))?;
        let probabilities = outputs[0].to_array_view::<f32>()?;
        Ok(probabilities.iter().nth(1).copied().map(f64::from))
    }
}

fn read(mut bytes: &[u8]) -> TractResult<Plan> {
    tract_onnx::onnx()
        .model_for_read(&mut bytes)?
        .with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), tvec!(1, FEATURES)))?
        .with_output_names([PROBABILITIES])?
        .into_optimized()?
        .into_runnable()
}
