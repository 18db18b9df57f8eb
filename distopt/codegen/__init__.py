"""Functions of tensors written out as loops and compiled: the speed of C from the first round on.

Reading order: ``function`` is what is called, and ``segments`` where rounds are cut into pieces. ``record`` writes down what one call does,
as a ``recording``; ``composites`` are operations that it writes down as several others. ``translate`` defines each operation, number by
number, with ``elementwise``, ``functions``, ``special``, ``views`` (and its ``slices``), ``reductions`` (and its ``lanes``) and ``places``
(and its ``selection``); ``operations`` lists them. ``expressions`` and ``loops`` hold the result, a few passes over
memory. ``fusion`` puts loops over the same rows together. ``memory`` decides what lies where. ``module`` prints the text that is compiled
(its loops by ``llvm``, cut into functions by ``parts``), and ``readable`` the same as C for people; both are a ``printer``. ``objects``
compiles and loads, and ``folder`` is where it keeps things. ``threads`` does large rounds in several threads.
"""

BITS = "2"
"""Increase it if any compiled function gives other bits than before: runs that began with the old bits then cannot continue."""
