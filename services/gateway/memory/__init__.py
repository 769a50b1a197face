"""How much memory there is, what engines need of it, and what they were seen to take.

Devices are `card0`, `card1`, ... (positions in the preset's list) and `ram`; figures are whole MiB.
What concerns graphics cards was tested on recorded answers of the driver, not run on a GPU.
"""
