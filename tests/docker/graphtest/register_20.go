// How Docker 20.10 registers a driver.
package main

import (
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/pkg/idtools"
	"github.com/docker/docker/pkg/plugins"
)

// register lets the suite, which looks drivers up without a getter of plugins, find ours.
func register(client *plugins.Client) {
	err := graphdriver.Register(name, func(
		home string, options []string, uids, gids []idtools.IDMap,
	) (graphdriver.Driver, error) {
		return graphdriver.GetDriver(name+"-plugin", one{client}, graphdriver.Options{
			Root: home, DriverOptions: options, UIDMaps: uids, GIDMaps: gids, ExperimentalEnabled: true,
		})
	})
	if err != nil {
		panic(err)
	}
}
