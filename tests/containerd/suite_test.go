// containerd's own tests of a snapshotter, against the service that listens at REFLAYER_SOCKET.
package suite

import (
	"context"
	"net"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestReflayer(t *testing.T) {
	testsuite.SnapshotterSuite(t, "reflayer", connect)
}

func connect(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	dial := func(ctx context.Context, socket string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	connection, err := grpc.DialContext(
		ctx,
		os.Getenv("REFLAYER_SOCKET"),
		grpc.WithContextDialer(dial),
		grpc.WithInsecure(),
		grpc.WithBlock(),
	)
	if err != nil {
		return nil, nil, err
	}
	client := snapshotsapi.NewSnapshotsClient(connection)
	return proxy.NewSnapshotter(client, "reflayer"), connection.Close, nil
}
