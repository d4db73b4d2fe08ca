# The commands of this project; `make` lists them. What they do is in scripts/.

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
UNITDIR ?= $(PREFIX)/lib/systemd/system
LIBDIR  ?= $(PREFIX)/lib
SYSCONFDIR ?= /etc
INSTALL ?= install
AGENT   ?= target/release/iot-agent

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A backend and one enrolled agent on this machine, until Ctrl-C
	@exec scripts/demo

.PHONY: test
test: ## Every check there is; installs the Debian packages it needs
	@exec scripts/check

.PHONY: portable
portable: ## Whether the agent compiles for macOS and BSD; installs another compiler
	@exec scripts/portable

.PHONY: prove
prove: ## The promises at full size (T2, up to 45 min), with a table of figures
	@exec scripts/prove 2

.PHONY: soak
soak: ## The promises at length (T3, hours), before a release
	@exec scripts/prove 3

# In a folder of its own: cargo gives binaries built beside benchmarks the features of the tests' dependencies.
.PHONY: bench
bench: build ## The benchmarks, of what `make build` builds; see docs/benchmarks.md
	IOT_AGENT='$(CURDIR)/target/release/iot-agent' cargo bench --workspace --locked --bench '*' --target-dir target/bench

# One after the other: built together, the agent would get the features that only the hub asks for.
.PHONY: build
build: ## The release binaries, in target/release/
	scripts/tools build
	cargo build --release --locked --package iot-agent
	cargo build --release --locked --package iot-hub

.PHONY: dist
dist: ## Packages for x86-64, arm64 and armv7, in dist/; see docs/releasing.md
	@exec scripts/dist $(TARGETS)

# Does not build, so that root need not run cargo: `make build && sudo make install`.
.PHONY: install
install: ## Install the agent built by `make build` (PREFIX, DESTDIR)
	@test -x $(AGENT) || { echo "run 'make build' first" >&2; exit 1; }
	$(INSTALL) -D -m 0755 $(AGENT) $(DESTDIR)$(BINDIR)/iot-agent
	$(INSTALL) -d $(DESTDIR)$(UNITDIR)
	sed 's|/usr/bin/iot-agent|$(BINDIR)/iot-agent|' packaging/systemd/iot-agent.service > $(DESTDIR)$(UNITDIR)/iot-agent.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/iot-agent.service
	$(INSTALL) -D -m 0644 packaging/systemd/sysusers.conf $(DESTDIR)$(LIBDIR)/sysusers.d/iot-agent.conf
	$(INSTALL) -D -m 0644 packaging/systemd/tmpfiles.conf $(DESTDIR)$(LIBDIR)/tmpfiles.d/iot-agent.conf
	$(INSTALL) -D -m 0644 packaging/systemd/full-control.conf $(DESTDIR)$(PREFIX)/share/doc/iot-agent/full-control.conf
	$(INSTALL) -D -m 0644 config/config.yaml $(DESTDIR)$(PREFIX)/share/doc/iot-agent/config.yaml
	$(INSTALL) -D -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/iot-agent/LICENSE
	test -e $(DESTDIR)$(SYSCONFDIR)/iot-agent/config.yaml || \
	    $(INSTALL) -D -m 0640 config/config.yaml $(DESTDIR)$(SYSCONFDIR)/iot-agent/config.yaml
