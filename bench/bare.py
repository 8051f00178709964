"""The alternative to `online`: FastAPI and XGBoost's own predict, nothing checked, nothing kept.

It reads the same JSON of a ticket, fills the model's vector from those fields that are numbers
and answers with the score. The model file and its features come from the environment.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import orjson
import xgboost
from fastapi import FastAPI, Request
from fastapi.responses import Response

booster = xgboost.Booster(model_file=os.environ["BENCH_MODEL"])
booster.set_param({"nthread": 1})
FEATURES = {name: i for i, name in enumerate(orjson.loads(os.environ["BENCH_FEATURES"]))}
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """The score of a ticket."""
    body: dict[str, Any] = orjson.loads(await request.body())
    vector = np.full((1, len(FEATURES)), np.nan, dtype=np.float32)
    for name, value in body["fields"].items():
        column = FEATURES.get(name)
        if column is not None and isinstance(value, int | float):
            vector[0, column] = value
    score = float(booster.inplace_predict(vector)[0])
    return Response(orjson.dumps({"score": score}), media_type="application/json")
