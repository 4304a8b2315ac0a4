"""Names of the handbook's short request, which serving always accepts, whatever is declared.

Its fields are amount, merchant_category, hour_of_day, day_of_week, transaction_velocity and distance_from_home. A
field that the loaded version does not declare is checked and not used.
"""

from typing import Final

CATEGORY: Final = "merchant_category"
DISTANCE: Final = "distance_from_home"
VELOCITY: Final = "transaction_velocity"
VELOCITY_FEATURE: Final = "transaction_velocity_1h"
"""The window feature that VELOCITY stands for in a request without a user."""
COLUMNS: Final = (CATEGORY, DISTANCE)
MAX_DISTANCE: Final = 12_500.0
"""Miles. Half of the Earth's circumference is 12,451 miles, so no distance is larger."""
