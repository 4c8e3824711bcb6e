#!/usr/bin/env bash
# Three soaks under the race detector, over each transport; the seeds are printed.
#
# First clients come, freeze, break the rules and vanish for SOAK (default 30m),
# and the servers must then hold as many descriptors and goroutines as before and
# no more heap; a line every ten seconds. Then they are attacked, by more and for longer
# than in make test, while a hundred honest clients must notice nothing. Then readers are cut and come back, for
# ROUNDS (default 200) of two hundred readers, and must have lost and doubled nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FANFARE_CHURN=${SOAK:-30m} go test -race -count 1 -timeout 0 -v -run '^TestChurn$' .
FANFARE_ATTACK=full go test -race -count 1 -timeout 0 -v -run '^TestAttacks$' .
FANFARE_RESUME=${ROUNDS:-200} exec go test -race -count 1 -timeout 0 -v -run '^(TestResume|TestResumeWithGaps|TestResumeWithALateBroker|TestResumeInTime|TestSubscribeInTheMiddle)$' .
