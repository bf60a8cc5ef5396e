#!/usr/bin/env bash
# MindSpore 2.8.0: a prefix that nn.Cell.update_parameters_name gave to parameters is lost, without a word, when the cell becomes part of another.
#
# Expected (https://www.mindspore.cn/docs, nn.Cell.update_parameters_name: "Adds the prefix string to the names of network parameters"; and of
# a child cell: its attribute's name is put before the names of its parameters): a parameter "x.weight" of a cell that becomes `self.part`
# of another is "part.x.weight".
# Seen with MindSpore 2.8.0: "part.weight", in nn.CellList "0.weight": names are made anew from the attributes' names alone. Only a cell
# between the two, such as nn.SequentialCell(OrderedDict([("x", cell)])), keeps the word in the name.
#
# Consequence for this project: cells of a NAS-FPN have their text in the names of their tensors, by which children find what they inherit;
# it is put there by a SequentialCell of one (models/nas_fpn.py). Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.8.0 "numpy<2"
cat > probe.py <<'PY'
from collections import OrderedDict

import mindspore
from mindspore import nn


def names(cell: nn.Cell) -> list[str]:
    return [parameter.name for parameter in cell.get_parameters()]


def part() -> nn.Cell:
    cell = nn.Dense(2, 2, has_bias=False)
    cell.update_parameters_name("x.")
    return cell


class Net(nn.Cell):
    def __init__(self, inner: nn.Cell) -> None:
        super().__init__()
        self.part = inner


print("mindspore", mindspore.__version__)
alone, whole, listed = names(part()), names(Net(part())), names(nn.CellList([part()]))
named = names(Net(nn.SequentialCell(OrderedDict([("x", nn.Dense(2, 2, has_bias=False))]))))
print("alone:", alone, "as an attribute:", whole, "in a CellList:", listed, "in a SequentialCell with its name:", named)
raise SystemExit(0 if (alone, whole, listed, named) == (["x.weight"], ["part.weight"], ["0.weight"], ["part.x.weight"]) else 1)
PY
venv/bin/python probe.py 2>/dev/null
