# All that a person types here. Each target is a small script in tools/, so that signals reach the program and not make.
# A recipe begins with exec for the same reason: Ctrl-C ends what was started, and nothing else has to be cleaned up.

.PHONY: help run test lint docs bench soak

help:
	@echo 'make run    start a gateway from ./openclaw.yaml, with its state in ./.openclaw (Ctrl-C stops it)'
	@echo 'make test   every check: lint, unit tests, tests of real processes'
	@echo 'make lint   format, style, types, import rules, generated pages'
	@echo 'make docs   write the generated pages of docs/reference anew'
	@echo 'make bench  measure, interleaved with the floor of the same run'
	@echo 'make soak   the long campaigns'

run:
	@exec tools/run

test:
	@exec tools/test

lint:
	@exec tools/lint

docs:
	@exec tools/docs

bench:
	@exec tools/bench

soak:
	@exec tools/soak
