"""Traces: the W3C traceparent of requests in the prediction log, and OpenTelemetry spans of sampled requests.

Nothing of this package is on the path of a request while SERVING_TRACES is off: subclasses are chosen at the start.
"""
