"""The brain's front door: one OpenAI-compatible port before engines that come and go.

`front` speaks HTTP. `gate` lets a request in once its engine is there. `scheduling` decides,
without waiting, who may be loaded and who has to go; `owners` does it, one task per engine;
`engines` are containers or processes; `memory` knows what a model needs and what is free. See
README.md.
"""
