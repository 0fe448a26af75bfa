"""The rules of iteration in a world that goes wrong.

`world` is the store, the queue, the application and time; `driver` what a worker does; `scheduler` runs one seed.
"""
