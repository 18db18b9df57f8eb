"""Functions of tensors written out as loops and compiled: the speed of C from the first round on.

Reading order: ``function`` (what is called), ``record`` (what one call does), ``translate`` with ``elementwise``, ``views``, ``reductions``
and ``places`` (each operation, number by number), ``loops`` (passes over memory), ``memory`` (what lies where), ``llvm`` (the text that is
compiled), ``objects`` (compiling and loading).
"""
