"""Customers and their orders, invoices and letters."""

from django.db import models


class Customer(models.Model):
    """Who buys."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Invoice(models.Model):
    """What a task has charged a customer."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    note = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"{self.amount} for {self.customer}"


class Letter(models.Model):
    """What a task has written to a customer."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    text = models.TextField()

    def __str__(self) -> str:
        return f"letter to {self.customer}"
