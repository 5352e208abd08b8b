#!/bin/sh
# Install learn2learn 0.2.0 for the parity tests: scripts/install_learn2learn.sh [PYTHON].
# Its C files were made by an old Cython and do not compile on Python >= 3.11, so they are made anew; its pins, which would
# take numpy below 2, are left out. It needs a C compiler, and a pip that passes build settings on (Debian's own is too
# old). Its SVM head needs qpth, installed without its pins too (cvxpy, which it imports for a solver that is not used here, is
# left out: the test puts an empty module in its place). What cannot be built or had, the tests that use it skip.
set -u
python=${1:-python3}

"$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("qpth") is None)' \
    || "$python" -m pip install --quiet --no-deps qpth \
    || echo "qpth could not be installed: the test of the SVM head against learn2learn's will skip" >&2
"$python" -c 'import learn2learn' 2>/dev/null && exit 0
if "$python" -m pip install --quiet 'pip>=23.3' 'cython<3.1' 'setuptools<81' wheel gym tqdm requests \
    && "$python" -m pip install --quiet --use-pep517 --no-build-isolation --no-deps -C--global-option=build_ext learn2learn==0.2.0 \
    && "$python" -c 'import learn2learn' 2>/dev/null; then
    echo "learn2learn is installed"
else
    echo "learn2learn could not be installed (is there a C compiler?): the tests that compare with it will skip" >&2
fi
