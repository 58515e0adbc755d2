package embedded_test

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/embedded"
)

func TestATransactionTakesAsManyKeysAsAStoreSends(t *testing.T) {
	t.Parallel()
	client := open(t, start(t, embedded.Config{})).Client()
	for _, n := range []int{store.MaxTxnKeys, store.MaxTxnKeys + 1} {
		var ops []clientv3.Op
		for i := range n {
			ops = append(ops, clientv3.OpPut(fmt.Sprint(i), "x"))
		}
		_, err := client.Txn(t.Context()).Then(ops...).Commit()
		if refused := errors.Is(err, rpctypes.ErrTooManyOps); refused != (n > 4096) || err != nil && !refused {
			t.Errorf("%d keys: %v", n, err)
		}
	}
}
