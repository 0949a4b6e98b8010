"""What runs inside the sandbox. Standard library only: the processes in there see neither led_agent nor its packages.

``zygote`` forks a process for each run and watches it; ``candidate`` is the process of a program under test,
``examiner`` that of trusted tests; ``landlock`` and ``seccomp`` close the doors behind them; ``values`` is what passes
between them.
"""
