"""Small tables in other people's columns, and maps of them."""

import json

WIDE = """run_name,data,params,tokens,peak,loss_c4,acc_piqa,note
a,c4,100,2000,1e-3,3.5,0.5,x
b,c4,200,4000,1e-3,3.25,,x
c,rpj,100,2000,2e-3,3.75,0.75,y
"""
MAP = {
    "run": "{data}-{run_name}",
    "n_params": "params",
    "n_tokens": "tokens",
    "flops": "6nd",
    "lr_peak": "peak",
    "measure": [
        {"column": "loss_c4", "task": "c4_en_val", "metric": "lm_loss"},
        {"column": "acc_piqa", "task": "piqa", "metric": "acc", "n_examples": 1838},
    ],
}
LONG = """model,step,what,score,unit,n
m1,10,arc,50,acc,4
m1,10,text,3.5,lm_loss,9
m1,20,arc,75,acc,4
m1,20,other,1,acc,4
"""


def write(directory, text=WIDE, map_=MAP, name="t"):
    """A CSV and its map; returns their paths as text."""
    file, json_file = directory / f"{name}.csv", directory / f"{name}.json"
    file.write_text(text)
    json_file.write_text(map_ if isinstance(map_, str) else json.dumps(map_))
    return str(file), str(json_file)


def values(frame):
    """(run, task, metric) -> value, of tables with one checkpoint per run."""
    return frame.set_index(["run", "task", "metric"])["value"].to_dict()
