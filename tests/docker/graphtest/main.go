// Docker's own tests of graph drivers, run through its plugin client against a socket of ours.
package main

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/docker/docker/daemon/graphdriver/graphtest"
	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"
	"github.com/docker/docker/pkg/reexec"
)

const name = "reflayer"

// one is a getter of plugins that knows the one at a socket.
type one struct{ client *plugins.Client }

func (p one) Name() string               { return name }
func (p one) ScopedPath(s string) string { return s }
func (p one) IsV1() bool                 { return true }
func (p one) Client() *plugins.Client    { return p.client }

func (p one) Get(string, string, int) (plugingetter.CompatPlugin, error)   { return p, nil }
func (p one) GetAllByCap(string) ([]plugingetter.CompatPlugin, error)      { return nil, nil }
func (p one) GetAllManagedPluginsByCap(string) []plugingetter.CompatPlugin { return nil }
func (p one) Handle(string, func(string, *plugins.Client))                 {}

func main() {
	if reexec.Init() {
		return
	}
	testing.Init()
	socket := flag.String("socket", "", "the plugin's socket")
	quota := flag.Bool("quota", false, "the file system has project quotas")
	flag.Parse()
	client, err := plugins.NewClient("unix://"+*socket, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	register(client)
	tests := []testing.InternalTest{
		{Name: "CreateEmpty", F: func(t *testing.T) { graphtest.DriverTestCreateEmpty(t, name) }},
		{Name: "CreateBase", F: func(t *testing.T) { graphtest.DriverTestCreateBase(t, name) }},
		{Name: "CreateSnap", F: func(t *testing.T) { graphtest.DriverTestCreateSnap(t, name) }},
		{Name: "DeepLayerRead", F: func(t *testing.T) { graphtest.DriverTestDeepLayerRead(t, 60, name) }},
		{Name: "DiffApply", F: func(t *testing.T) { graphtest.DriverTestDiffApply(t, 180, name) }},
		{Name: "Changes", F: func(t *testing.T) { graphtest.DriverTestChanges(t, name) }},
	}
	if *quota {
		tests = append(tests, testing.InternalTest{
			Name: "SetQuota", F: func(t *testing.T) { graphtest.DriverTestSetQuota(t, name, true) },
		})
	}
	testing.Main(func(string, string) (bool, error) { return true, nil }, tests, nil, nil)
}
