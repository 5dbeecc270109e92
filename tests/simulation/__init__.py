"""
A simulation of servers that die, freeze and lose writes, in virtual time: the real engine, journal SQL and HTTP application.

`SimLoop` is the event loop of all servers, `SimPool` stands in for the processes of steps, and `FaultyBackend` for a disk. A seed
decides everything: the order of events, their times and the faults. `make sim SEEDS=200` runs some seeds.
"""
