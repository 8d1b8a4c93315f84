package server

import (
	"errors"

	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/server/controllermanager"
	"github.com/nodeless/nodeless/pkg/server/credentials"
	"github.com/nodeless/nodeless/pkg/server/scheduler"
)

// Effective is what Run gives its components and where it writes, for `nodeless check --cis`. Nothing is started or touched.
type Effective struct {
	APIServer, ControllerManager, Scheduler []string // arguments
	EncryptionFile                          string   // the settings by which Secrets are encrypted
	Admin                                   string   // the administrator's kubeconfig
	OwnDatastore                            bool     // SQLite in this process
}

// Check refuses what a component would refuse of its arguments when it starts. Nothing is started or touched.
func (c Config) Check() error {
	cred, endpoint := credentials.Locate(c.credentials()), c.Datastore
	if endpoint == "" {
		endpoint = c.datastore().Endpoint()
	}
	return errors.Join(
		apiserver.Check(c.apiserver(cred, endpoint)),
		controllermanager.Check(c.controllerManager(cred)),
		scheduler.Check(scheduler.Config{Kubeconfig: cred.Kubeconfig(pki.Scheduler), File: c.Run.Scheduler(), ExtraArgs: c.SchedulerArgs}),
	)
}

// Effective tells it of c, by the functions that Run itself calls.
func (c Config) Effective() Effective {
	cred := credentials.Locate(c.credentials())
	return Effective{
		APIServer:         apiserver.Args(c.apiserver(cred, c.Datastore)),
		ControllerManager: controllermanager.Args(c.controllerManager(cred)),
		Scheduler:         scheduler.Args(scheduler.Config{Kubeconfig: cred.Kubeconfig(pki.Scheduler), File: c.Run.Scheduler(), ExtraArgs: c.SchedulerArgs}),
		EncryptionFile:    cred.EncryptionFile(),
		Admin:             c.Kubeconfig,
		OwnDatastore:      c.Datastore == "",
	}
}
