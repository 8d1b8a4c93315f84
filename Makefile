# Every target is a script in scripts/; this file only names them.
.PHONY: help build bundle release demo run test machine attacks conformance robustness fuzz bench clean

build: ## dist/nodeless, the file that ships
	scripts/deps.sh
	scripts/build.sh

bundle: ## the parts from outside: QEMU, guest kernel, iptables, nft, crictl
	scripts/deps.sh
	scripts/build-bundle.sh

release: ## dist/release from this commit: program, checksums, bill of materials, install.sh; signed where KEY=file names a key
	scripts/deps.sh
	KEY=$(KEY) PUBLIC_KEY=$(PUBLIC_KEY) scripts/release.sh

demo: ## build, run a cluster in a host of its own, show two Pods, clean up
	scripts/demo.sh

run: ## like demo, but keep the cluster until Ctrl-C
	scripts/demo.sh run

test: ## all tests, those with microVMs included
	scripts/test.sh

machine: ## install, test, reboot, upgrade and uninstall in an emulated Debian machine with KVM, cgroup v2 and systemd (DEBIAN=13 SHORT=1 KEEP=1 STEP=name)
	DEBIAN=$(DEBIAN) SHORT=$(SHORT) KEEP=$(KEEP) STEP="$(STEP)" OLD="$(OLD)" RUN="$(RUN)" SLOW=$(SLOW) scripts/machine.sh

attacks: ## try every attack of docs/security.md (ATTACK=name for some) and count what became of them
	scripts/attacks.sh $(ATTACK)

conformance: ## Kubernetes' own conformance tests, those not passed yet (GROUP=api|node|… for some, SIZING=spec for the default sizing)
	GROUP=$(GROUP) SIZING=$(SIZING) scripts/conformance.sh

robustness: ## inject every fault, or those named by FAULT=name
	scripts/robustness.sh $(FAULT)

fuzz: ## search for inputs that break what a hostile Pod, guest or image reaches (FUZZTIME=10m TARGET=FuzzHTTP)
	scripts/fuzz.sh

bench: ## print the numbers of docs/SPECIFICATION.md; KVM=1 on a host with KVM fills the page's column of it
	KVM=$(KVM) scripts/bench.sh

clean: ## remove what was built here
	scripts/clean.sh

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile
