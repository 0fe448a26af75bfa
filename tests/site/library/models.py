"""Models with relations of every kind, for querysets that travel as descriptions."""

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Publisher(models.Model):
    """What authors belong to, by its key or by its code."""

    name = models.CharField(max_length=20)
    city = models.CharField(max_length=20, null=True)  # noqa: DJ001  # Conditions on NULL are what it is for.
    code = models.CharField(max_length=10, unique=True)


class Topic(models.Model):
    """What books are about, and authors like."""

    name = models.CharField(max_length=20)
    weight = models.IntegerField(null=True)


class Author(models.Model):
    """Relations to itself, to one, to many, and by a field that is no primary key."""

    name = models.CharField(max_length=20)
    age = models.IntegerField(null=True)
    password = models.CharField(max_length=20, default="")
    publisher = models.ForeignKey(Publisher, models.CASCADE, null=True, related_name="authors")
    imprint = models.ForeignKey(Publisher, models.CASCADE, null=True, to_field="code", related_name="imprinted")
    mentor = models.ForeignKey("self", models.CASCADE, null=True, related_name="pupils")
    friends = models.ManyToManyField("self")
    likes = models.ManyToManyField(Topic, related_name="fans")


class Profile(models.Model):
    """One for each author, under its key."""

    author = models.OneToOneField(Author, models.CASCADE, primary_key=True)
    about = models.CharField(max_length=20, null=True)  # noqa: DJ001  # Conditions on NULL are what it is for.


class Available(models.Manager["Book"]):
    """Hides what is in the archive."""

    def get_queryset(self) -> models.QuerySet["Book"]:
        """Only the others."""
        return super().get_queryset().filter(archived=False)


class Book(models.Model):
    """Fields of every kind."""

    title = models.CharField(max_length=20)
    published = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    pages = models.IntegerField(null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    lent_for = models.DurationField(null=True)
    data = models.JSONField(null=True)
    serial = models.UUIDField(default=uuid.uuid4)
    cover = models.BinaryField(null=True)
    archived = models.BooleanField(default=False)
    author = models.ForeignKey(Author, models.CASCADE, null=True, related_name="books")
    editor = models.ForeignKey(Author, models.CASCADE, related_name="edited")
    others = models.ManyToManyField(Author, related_name="shared_books")
    topics = models.ManyToManyField(Topic, through="Shelving", related_name="books")
    notes = GenericRelation("Note")

    objects = Available()
    everything = models.Manager()  # noqa: DJ012  # A manager, too.

    class Meta:
        base_manager_name = "everything"


class Reprint(Book):
    """The same rows under another class."""

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        proxy = True


class Shelving(models.Model):
    """Which book is under which topic."""

    book = models.ForeignKey(Book, models.CASCADE)
    topic = models.ForeignKey(Topic, models.CASCADE)
    rank = models.IntegerField(null=True)


class Review(models.Model):
    """Several for each book; its author does not know of it."""

    book = models.ForeignKey(Book, models.CASCADE, related_name="reviews")
    reviewer = models.ForeignKey(Author, models.CASCADE, null=True, related_name="+")
    stars = models.IntegerField(null=True)


class Animal(models.Model):
    """A parent in multi-table inheritance."""

    name = models.CharField(max_length=20)
    owner = models.ForeignKey(Author, models.CASCADE, null=True, related_name="pets")


class Dog(Animal):
    """Its child."""

    breed = models.CharField(max_length=20, null=True)  # noqa: DJ001  # Conditions on NULL are what it is for.


class Toy(models.Model):
    """Of the child only."""

    dog = models.ForeignKey(Dog, models.CASCADE, related_name="toys")
    kind = models.CharField(max_length=20, null=True)  # noqa: DJ001  # Conditions on NULL are what it is for.


class Cell(models.Model):
    """A row whose primary key has two parts."""

    pk = models.CompositePrimaryKey("sheet", "row")
    sheet = models.IntegerField()
    row = models.IntegerField()
    text = models.CharField(max_length=20, null=True)  # noqa: DJ001  # Conditions on NULL are what it is for.


class Note(models.Model):
    """A row about any other."""

    # Its table is made before the one of content types, which comes from migrations.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.IntegerField()
    about = GenericForeignKey()
    text = models.CharField(max_length=20)
