"""The application of the project on Datastore."""
