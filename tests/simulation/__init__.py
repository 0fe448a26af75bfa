"""The rules of iteration in a world that goes wrong.

`world` is the store, the queue, the application and time; `driver` and `slices` what a worker does, `console` what a
person does; `scheduler` runs one seed, `trials` many of them.
"""
