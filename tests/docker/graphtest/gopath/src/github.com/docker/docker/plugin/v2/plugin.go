// Package v2 stands in for Docker's, which Debian does not install: plugins that it manages itself,
// which ours is none of.
package v2

import (
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/pkg/plugingetter"
)

// Plugin is a plugin that Docker manages itself.
type Plugin struct {
	plugingetter.CompatPlugin
	PluginObj types.Plugin
}
