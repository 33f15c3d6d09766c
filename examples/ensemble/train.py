"""Trains the models of this example, once: they and the held-out rows are committed in `data/`.

    python3 -m venv venv && venv/bin/pip install lightgbm==4.7.0 scikit-learn==1.9.1 skl2onnx onnxruntime && venv/bin/python train.py

Source of the data: scikit-learn's bundled copy of the Wisconsin breast cancer data (569 rows of 30 numbers).
"""

import json
import pathlib

import lightgbm
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

SEED = 7

data = load_breast_cancer()
train_x, held_x, train_y, held_y = train_test_split(
    data.data, data.target, test_size=0.3, random_state=SEED, stratify=data.target
)
scaler = StandardScaler().fit(train_x)
# In single precision, as the served models get their input
scaled_train = scaler.transform(train_x).astype(np.float32)
scaled_held = scaler.transform(held_x).astype(np.float32)

trees = lightgbm.train(
    {"objective": "binary", "num_leaves": 8, "learning_rate": 0.2, "seed": SEED, "verbose": -1, "num_threads": 1},
    lightgbm.Dataset(scaled_train, train_y),
    num_boost_round=30,
)
network = MLPClassifier(hidden_layer_sizes=(16,), max_iter=800, random_state=SEED, alpha=1e-2).fit(scaled_train, train_y)
onnx = to_onnx(network, scaled_train[:1], options={"zipmap": False}, target_opset=13)

folder = pathlib.Path(__file__).parent / "data"
folder.mkdir(exist_ok=True)
trees.save_model(str(folder / "trees.txt"))
(folder / "network.onnx").write_bytes(onnx.SerializeToString())
(folder / "scaler.json").write_text(json.dumps({"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}) + "\n")

session = onnxruntime.InferenceSession(onnx.SerializeToString())
by_trees = trees.predict(scaled_held)
by_network = session.run(None, {session.get_inputs()[0].name: scaled_held})[1][:, 1]
together = (by_trees + by_network) / 2
correct = {name: int(((p > 0.5) == held_y).sum()) for name, p in
           {"trees": by_trees, "network": by_network, "ensemble": together}.items()}
(folder / "held_out.json").write_text(json.dumps({
    # computed here, by lightgbm and onnxruntime, on rows that neither model was trained on
    "correct": correct,
    "rows": [
        {"features": row.tolist(), "label": int(label), "trees": float(t), "network": float(n)}
        for row, label, t, n in zip(held_x, held_y, by_trees, by_network)
    ],
}) + "\n")
print(len(held_y), correct)
