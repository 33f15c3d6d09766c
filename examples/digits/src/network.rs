//! A multi-layer perceptron: `relu` between the layers, `softmax` at the end.

use serde::Deserialize;

/// Pixels of one image.
pub(crate) const PIXELS: usize = 64;
/// The darkest pixel; the network was trained on pixels from 0 to 1.
const DARKEST: f64 = 16.0;

/// The network as `train.py` writes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Network {
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    /// `weights[input][output]`
    weights: Vec<Vec<f64>>,
    bias: Vec<f64>,
}

impl Network {
    /// Reads a network and checks that its layers fit together.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        let network: Network = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut width = PIXELS;
        for (number, layer) in network.layers.iter().enumerate() {
            let fits =
                layer.weights.len() == width && layer.weights.iter().all(|row| row.len() == layer.bias.len());
            if !fits {
                return Err(format!("layer {number} does not take {width} inputs"));
            }
            width = layer.bias.len();
        }
        Ok(network)
    }

    /// The probability of each class for one image.
    pub(crate) fn run(&self, pixels: &[f64]) -> Vec<f64> {
        let mut values: Vec<f64> = pixels.iter().map(|pixel| pixel / DARKEST).collect();
        for (number, layer) in self.layers.iter().enumerate() {
            values = layer.run(&values);
            if number + 1 < self.layers.len() {
                values.iter_mut().for_each(|value| *value = value.max(0.0));
            }
        }
        softmax(&values)
    }
}

impl Layer {
    fn run(&self, inputs: &[f64]) -> Vec<f64> {
        let mut outputs = self.bias.clone();
        for (input, row) in inputs.iter().zip(&self.weights) {
            for (output, weight) in outputs.iter_mut().zip(row) {
                *output += input * weight;
            }
        }
        outputs
    }
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|value| (value - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The class of the largest probability.
pub(crate) fn likeliest(probabilities: &[f64]) -> usize {
    let best = probabilities.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(0, |(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digit, what scikit-learn said, and the pixels, for each held-out image.
    fn held_out() -> Vec<(usize, usize, Vec<f64>)> {
        include_str!("../data/held_out.csv")
            .lines()
            .skip(1)
            .map(|line| {
                let numbers: Vec<u8> =
                    line.split(',').map(|number| number.parse().expect("numbers")).collect();
                let pixels = numbers[2..].iter().copied().map(f64::from).collect();
                (usize::from(numbers[0]), usize::from(numbers[1]), pixels)
            })
            .collect()
    }

    #[test]
    fn agrees_with_scikit_learn_on_every_held_out_digit() {
        let network = Network::from_json(crate::MODEL).expect("the committed model");
        let images = held_out();
        assert_eq!(images.len(), 450);
        for (digit, offline, pixels) in images {
            assert_eq!(likeliest(&network.run(&pixels)), offline, "a {digit}");
        }
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let error = Network::from_json(r#"{"layers": [{"weights": [[1.0]], "bias": [0.0]}]}"#).unwrap_err();
        assert!(error.contains("layer 0 does not take 64 inputs"), "{error}");
    }

    #[test]
    fn probabilities_add_up() {
        let network = Network::from_json(crate::MODEL).expect("the committed model");
        let sum: f64 = network.run(&[0.0; PIXELS]).iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }
}
