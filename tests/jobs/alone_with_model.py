"""Loads a model and asks it, then prints as JSON what it answered and what its sources imported: MODEL ROWS.json."""

import ast
import json
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import mlflow
import pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
rows = pd.read_json(sys.argv[2], orient="records").astype({"x": float, "y": float})
answers = model.predict(rows)
own = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("mcb", "cluster", "jobs")}
files = [module.__file__ for module in own.values() if module.__file__]
names = set()
for file in files:
    for node in ast.parse(Path(file).read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
distributions = packages_distributions()
imported = {distributions[name][0].lower() for name in names if name in distributions} - {"mcb-maml"}
print()
print(
    json.dumps(
        {
            "answers": answers.to_dict("records"),
            "files": files,
            "imported": sorted(imported),
            "loaded": sorted(name for name in sys.modules if "." not in name),
        },
        default=bool,
    )
)
