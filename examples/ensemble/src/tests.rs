//! Both models against what lightgbm and onnxruntime answered offline.

use serde_json::Value;

use super::*;

fn rows() -> Vec<Value> {
    let held: Value = serde_json::from_str(include_str!("../data/held_out.json")).unwrap();
    held["rows"].as_array().unwrap().clone()
}

fn scaled(row: &Value) -> Vec<f32> {
    let features = row["features"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    Preprocess::new().unwrap().scale(features).unwrap()
}

#[test]
fn trees_answer_what_lightgbm_answered() {
    let model: BoostedTrees = TREES.parse().unwrap();
    assert_eq!(model.features(), 30);
    for row in rows() {
        let (ours, theirs) = (model.probability(&scaled(&row)), row["trees"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-9, "{ours} and not {theirs}");
    }
}

#[test]
fn the_network_answers_what_onnxruntime_answered() {
    let network = Network::new().unwrap();
    for row in rows() {
        let (ours, theirs) = (network.predict(scaled(&row)).unwrap(), row["network"].as_f64().unwrap());
        // Single precision, added up in another order
        assert!((ours - theirs).abs() < 1e-5, "{ours} and not {theirs}");
    }
}

#[test]
fn a_model_file_that_is_none_is_refused() {
    let refused = |text: &str| text.parse::<BoostedTrees>().unwrap_err().to_string();
    assert!(refused("").contains("no line 'objective='"));
    assert!(
        refused(&TREES.replace("objective=binary sigmoid:1", "objective=regression"))
            .contains("not supported")
    );
    assert!(refused(&TREES.replacen("num_cat=0", "num_cat=1", 1)).contains("a categorical feature"));
    assert!(refused(&TREES.replacen("split_feature=", "split_feature=999 ", 1)).contains("split_feature"));
    assert!(refused(&TREES.replacen("left_child=1", "left_child=0", 1)).contains("left_child"), "a circle");
    for cut in (0..TREES.find("end of trees").unwrap()).step_by(97) {
        // Cut anywhere: refused, or a model of fewer trees that still ends every walk
        if let Ok(model) = TREES[..cut].parse::<BoostedTrees>() {
            assert!(model.probability(&[0.0; 30]).is_finite());
        }
    }
}
