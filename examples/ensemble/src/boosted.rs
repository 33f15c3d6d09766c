//! Gradient-boosted trees as LightGBM writes them (`Booster.save_model`, version 4): numerical splits and a binary
//! objective. What it can't run is refused when it is read.

use std::str::FromStr;

/// Trees whose leaves add up.
#[derive(Clone, Debug, PartialEq)]
pub struct BoostedTrees {
    features: usize,
    /// The slope of the curve that makes a probability of a sum.
    sigmoid: f64,
    trees: Vec<Tree>,
}

/// Why a model file is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreesError {
    /// A line that must be there.
    #[error("tree {tree:?} has no line '{key}=' (None: the model's head)")]
    Missing {
        /// Which tree.
        tree: Option<usize>,
        /// What it lacks.
        key: &'static str,
    },
    /// A line that makes no sense.
    #[error("line '{key}=' of tree {tree:?} can't be read (None: the model's head)")]
    Malformed {
        /// Which tree.
        tree: Option<usize>,
        /// Which line.
        key: &'static str,
    },
    /// Something that this reader does not run.
    #[error("{0} is not supported; train with numerical features and objective=binary")]
    Unsupported(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Tree {
    /// Inner nodes; a tree of one leaf has none.
    nodes: Vec<Node>,
    leaves: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    feature: usize,
    threshold: f64,
    /// Where a value goes that is missing.
    default_left: bool,
    missing: Missing,
    left: Child,
    right: Child,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Node(usize),
    Leaf(usize),
}

/// What counts as missing, bits 2 and 3 of a node's `decision_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    None,
    Zero,
    Nan,
}

/// LightGBM takes what is nearer to zero than this for zero.
const ZERO: f64 = 1e-35;

impl BoostedTrees {
    /// Probability of the class 1. Features that are not given are missing.
    #[must_use]
    pub fn probability(&self, features: &[f32]) -> f64 {
        let sum: f64 = self.trees.iter().map(|tree| tree.value(features)).sum();
        1.0 / (1.0 + (-self.sigmoid * sum).exp())
    }

    /// How many features it was trained on.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }
}

impl Tree {
    fn value(&self, features: &[f32]) -> f64 {
        let mut at = if self.nodes.is_empty() { Child::Leaf(0) } else { Child::Node(0) };
        loop {
            match at {
                Child::Leaf(leaf) => return self.leaves[leaf],
                Child::Node(node) => at = self.nodes[node].next(features),
            }
        }
    }
}

impl Node {
    fn next(&self, features: &[f32]) -> Child {
        let value = features.get(self.feature).copied().map_or(f64::NAN, f64::from);
        // Where NaN is not a value of its own, LightGBM reads it as zero.
        let value = if value.is_nan() && self.missing != Missing::Nan { 0.0 } else { value };
        let missing = match self.missing {
            Missing::None => false,
            Missing::Zero => value.abs() <= ZERO,
            Missing::Nan => value.is_nan(),
        };
        let left = if missing { self.default_left } else { value <= self.threshold };
        if left { self.left } else { self.right }
    }
}

impl FromStr for BoostedTrees {
    type Err = TreesError;

    fn from_str(text: &str) -> Result<Self, TreesError> {
        let text = text.split("\nend of trees").next().unwrap_or(text);
        let mut sections = text.split("\nTree=");
        let head = Section { tree: None, text: sections.next().unwrap_or_default() };
        let objective = head.line("objective")?;
        let sigmoid = match objective.split_once(" sigmoid:") {
            Some(("binary", slope)) => slope.trim().parse().map_err(|_| head.malformed("objective"))?,
            _ => return Err(TreesError::Unsupported(format!("objective {objective}"))),
        };
        if head.line("num_tree_per_iteration")? != "1" {
            return Err(TreesError::Unsupported("more than one tree for each round".to_owned()));
        }
        let features = head.numbers::<usize>("max_feature_idx")?.first().map_or(0, |last| last + 1);
        let trees = sections
            .enumerate()
            .map(|(index, text)| tree(&Section { tree: Some(index), text }, features))
            .collect::<Result<_, _>>()?;
        Ok(Self { features, sigmoid, trees })
    }
}

fn tree(section: &Section<'_>, features: usize) -> Result<Tree, TreesError> {
    if section.line("num_cat")? != "0" {
        return Err(TreesError::Unsupported("a categorical feature".to_owned()));
    }
    let leaves: Vec<f64> = section.numbers("leaf_value")?;
    let count = section.numbers::<usize>("num_leaves")?.first().copied().unwrap_or(0);
    if leaves.len() != count || leaves.is_empty() {
        return Err(section.malformed("leaf_value"));
    }
    if leaves.len() == 1 {
        return Ok(Tree { nodes: Vec::new(), leaves });
    }
    let inner = leaves.len() - 1;
    let split: Vec<usize> = section.list("split_feature", inner)?;
    let threshold: Vec<f64> = section.list("threshold", inner)?;
    let decision: Vec<u8> = section.list("decision_type", inner)?;
    let left: Vec<i64> = section.list("left_child", inner)?;
    let right: Vec<i64> = section.list("right_child", inner)?;
    let mut nodes = Vec::with_capacity(inner);
    for at in 0..inner {
        if split[at] >= features {
            return Err(section.malformed("split_feature"));
        }
        // Children follow their node, so that no walk goes round in a circle.
        let child = |number: i64, key| match usize::try_from(number) {
            Ok(node) if node > at && node < inner => Ok(Child::Node(node)),
            Err(_) if (!number).unsigned_abs() < leaves.len() as u64 => {
                usize::try_from(!number).map(Child::Leaf).map_err(|_| section.malformed(key))
            }
            _ => Err(section.malformed(key)),
        };
        nodes.push(Node {
            feature: split[at],
            threshold: threshold[at],
            default_left: decision[at] & 2 != 0,
            missing: match decision[at] >> 2 & 3 {
                0 => Missing::None,
                1 => Missing::Zero,
                2 => Missing::Nan,
                _ => return Err(section.malformed("decision_type")),
            },
            left: child(left[at], "left_child")?,
            right: child(right[at], "right_child")?,
        });
    }
    Ok(Tree { nodes, leaves })
}

/// Lines `key=value` of the head or of one tree.
struct Section<'t> {
    tree: Option<usize>,
    text: &'t str,
}

impl<'t> Section<'t> {
    fn line(&self, key: &'static str) -> Result<&'t str, TreesError> {
        let value = |line: &'t str| line.strip_prefix(key)?.strip_prefix('=');
        self.text.lines().find_map(value).ok_or(TreesError::Missing { tree: self.tree, key })
    }

    fn numbers<N: FromStr>(&self, key: &'static str) -> Result<Vec<N>, TreesError> {
        let words = self.line(key)?.split_whitespace();
        words.map(|word| word.parse().map_err(|_| self.malformed(key))).collect()
    }

    fn list<N: FromStr>(&self, key: &'static str, len: usize) -> Result<Vec<N>, TreesError> {
        let numbers = self.numbers(key)?;
        if numbers.len() == len { Ok(numbers) } else { Err(self.malformed(key)) }
    }

    fn malformed(&self, key: &'static str) -> TreesError {
        TreesError::Malformed { tree: self.tree, key }
    }
}
