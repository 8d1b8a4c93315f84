// Package config turns the command line, NODELESS_ environment variables and the file /etc/nodeless/config.yaml into
// one checked Config. One table (Options) names each setting once: pkg/cli makes its flags from it, Load reads
// environment and files by it. It links nothing of Kubernetes, so that settings can be tested in milliseconds.
package config
