"""Threads of MindSpore on the CPU."""

import os

import mindspore

CONFIGURATION = "MS_DEV_RUNTIME_CONF"  # of MindSpore's runtime, KEY:VALUE,KEY:VALUE


def use_threads(count: int) -> None:
    """Compute on the CPU with `count` threads; to be called before the first operator runs.

    With one, MindSpore 2.8 would still give half of each convolution to a second thread, which waits for it in a busy loop, and send every
    operator through its actors as a message. Without the new pipeline, and with two threads to dispatch operators, of which one sleeps, it
    launches them one after the other instead: the second core is free, and another process on it disturbs nobody.

    Operators without a graph are not launched ahead either: with two threads these wait for each other in busy loops, so that a batch of
    inference takes 0.43 s in place of 0.06. Set between an operator and a training, the switch did not help the inference after it.
    """
    mindspore.set_device("CPU")
    mindspore.runtime.launch_blocking()
    mindspore.device_context.cpu.op_tuning.threads_num(count)
    if count == 1:
        os.environ[CONFIGURATION] = ",".join(filter(None, (os.environ.get(CONFIGURATION), "new_pipeline:False")))
        mindspore.runtime.dispatch_threads_num(2)
