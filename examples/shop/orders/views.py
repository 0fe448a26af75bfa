"""One page: what the tasks have done."""

from collections.abc import Iterable

from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from orders.models import Invoice, Letter


def overview(request: HttpRequest) -> HttpResponse:
    """List invoices and letters, newest first."""
    invoices = Invoice.objects.select_related("customer").order_by("-pk")[:50]
    letters = Letter.objects.select_related("customer").order_by("-pk")[:50]
    return HttpResponse(
        format_html(
            "<!doctype html><title>Shop</title><h1>Shop</h1>"
            "<h2>{} invoices</h2><ul>{}</ul><h2>{} letters</h2><ul>{}</ul>",
            Invoice.objects.count(),
            _items(f"{invoice.amount} for {invoice.customer}: {invoice.note}" for invoice in invoices),
            Letter.objects.count(),
            _items(f"{letter.customer}: {letter.text}" for letter in letters),
        )
    )


def _items(texts: Iterable[str]) -> SafeString:
    return format_html_join("", "<li>{}</li>", ((text,) for text in texts))
