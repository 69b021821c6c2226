"""Policies that decide without cace-env: as a folder for NumPy, or as ONNX.

```python
from cace_env.export import write_numpy, write_onnx

write_numpy("agent:eviction", "exported")  # exported/policy.py, policy.json, weights.npz
write_onnx("cace", "cace.onnx")  # needs onnx: pip install "cace-env[export]"
```

Both take the features of the open question in physical units and the legal actions, and give the action. Any policy
can be exported whose scores follow from features: agents, CACE with any weights, and rules such as `lru` or `gdsf`.
`docs/export.md` has the interface; `python -m experiments.export` does it from the terminal.
"""

from cace_env.export.checking import Agreement, Question, agreement, questions
from cace_env.export.form import Form, form_of
from cace_env.export.numpy_form import load_numpy, write_numpy
from cace_env.export.onnx_form import load_onnx, write_onnx

__all__ = [
    "Agreement",
    "Form",
    "Question",
    "agreement",
    "form_of",
    "load_numpy",
    "load_onnx",
    "questions",
    "write_numpy",
    "write_onnx",
]
