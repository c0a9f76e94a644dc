// Package quota stands in for Docker's, which Debian does not install: the suite names its error.
package quota

import "errors"

// ErrQuotaNotSupported is the error of a file system without project quotas.
var ErrQuotaNotSupported = errors.New("filesystem does not support, or has not enabled quotas")
