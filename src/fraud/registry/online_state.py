"""The gate `online_state`: the online store has every history and daily table that a version reads.

It depends on the present, as the gate `skew` does, so promotion evaluates it. `fraud materialize` loads the histories
and daily tables of the project's declaration beside those of the versions with an alias.
"""

from fraud.core.plan import Plan
from fraud.settings import Settings
from fraud.stats import gates
from fraud.stats.gates import Gate
from fraud.streams.redis_client import STORE_ERRORS, open_client


def online_state(settings: Settings, plan: Plan) -> Gate:
    """The gate of a version with this plan. Not measured, and so failed, when the store does not answer.

    An installation without an online store needs nothing in it.
    """
    if not plan.windows and not plan.tables:
        return gates.online_state((), 0, "")
    if not settings.has_online_store:
        return gates.online_state((), 0, "there is no online store (FRAUD_REDIS_URL=none)")
    keys = {f"history of {w.layout.entity} ({w.layout.id})": w.layout.materialized_key for w in plan.windows}
    keys |= {f"daily table of {t.entity} ({t.id})": t.pointer_key for t in plan.tables}
    try:
        with open_client(settings.redis_url.get_secret_value()) as client:
            absent = [name for name, key in keys.items() if not client.exists(key)]
    except (*STORE_ERRORS, ValueError) as error:
        return gates.online_state(None, len(keys), f"the online store does not answer: {error}")
    return gates.online_state(absent, len(keys), "")
