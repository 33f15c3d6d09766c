"""Trains the digits classifier, once: its weights and the held-out digits are committed beside this script.

    python3 -m venv venv && venv/bin/pip install scikit-learn==1.9.1 && venv/bin/python train.py

Source of the data: scikit-learn's bundled copy of the UCI optical digits (1,797 images of 8 x 8 pixels, 0 to 16).
"""

import json
import pathlib

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HIDDEN = 32
SEED = 7

digits = load_digits()
train_x, held_x, train_y, held_y = train_test_split(
    digits.data / 16.0, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
)
model = MLPClassifier(hidden_layer_sizes=(HIDDEN,), max_iter=600, random_state=SEED, alpha=1e-3)
model.fit(train_x, train_y)
predicted = model.predict(held_x)

folder = pathlib.Path(__file__).parent / "data"
weights = {
    # layer by layer: weights[input][output], then one bias for each output
    "layers": [
        {"weights": matrix.tolist(), "bias": bias.tolist()} for matrix, bias in zip(model.coefs_, model.intercepts_)
    ],
    "classes": model.classes_.tolist(),
    # computed here, by scikit-learn, on digits that it was not trained on
    "held_out": {"count": len(held_y), "correct": int((predicted == held_y).sum())},
}
(folder / "model.json").write_text(json.dumps(weights) + "\n")
with (folder / "held_out.csv").open("w") as out:
    out.write("digit,predicted_offline," + ",".join(f"p{i}" for i in range(64)) + "\n")
    for pixels, digit, guess in zip(held_x, held_y, predicted):
        out.write(f"{digit},{guess}," + ",".join(str(int(round(p * 16))) for p in pixels) + "\n")
print(weights["held_out"])
