"""What the best multiple of a direction explains."""

from __future__ import annotations

import numpy as np

from sim2real.localization.joints import explained_alone


def test_what_one_direction_explains_by_hand():
    error = np.array([[3.0, 4.0], [6.0, 8.0]])
    reach = np.array([[[1.0, 0.0]] * 2, [[0.0, 2.0]] * 2, [[-6.0, -8.0]] * 2, [[0.0, 0.0]] * 2])
    np.testing.assert_allclose(explained_alone(error, reach), [0.36, 0.64, 1.0, 0.0])
