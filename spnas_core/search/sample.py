"""Nets to measure on another device: as unlike each other as the space of a search allows."""

from dataclasses import replace

import numpy as np

from spnas_core.arch import ArchError
from spnas_core.search.block_features import net_features
from spnas_core.search.costs import CostOf, within
from spnas_core.search.mutation import mutate
from spnas_core.search.net import Net, net_of
from spnas_core.search.propose import grow_copies
from spnas_core.settings.run import Run

WALKS = 40  # random nets from which one is chosen


def sample_nets(settings: Run, count: int, cost_of: CostOf, classes: int) -> list[Net]:
    """Return `count` nets of the space of a search, or fewer where it has no more: the start net, then the most unlike those before it.

    They are drawn by as many mutations as a search of these rounds makes, every third with parallel copies, within the budget of what is
    counted; unlike are those whose features (block_features.py) are far apart, each scaled by its largest value.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([settings.seed, 4])))
    start = net_of(settings.arch, settings.detector)
    pool = {start.identity: start}
    for number in range(WALKS * count):
        net = start
        try:
            for _ in range(int(rng.integers(1, settings.serial.rounds + 1))):
                net = mutate(net, rng, settings.serial.mutation, settings.space, settings.detector)
            if number % 3 == 0:
                net = grow_copies(replace(net, arch=net.arch.serial()), rng, settings, cost_of)
            if within(cost_of(net), settings.budget):
                pool.setdefault(net.identity, net)
        except ArchError:  # a space so tight that a net has no child
            continue
    nets = list(pool.values())
    rows = np.array([list(net_features(net.arch, net.detector(settings.detector), classes).values()) for net in nets])
    rows /= np.maximum(rows.max(axis=0), 1e-12)
    chosen = [0]
    distance = np.linalg.norm(rows - rows[0], axis=1)
    while len(chosen) < min(count, len(nets)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(rows - rows[chosen[-1]], axis=1))
    return [nets[place] for place in chosen]
