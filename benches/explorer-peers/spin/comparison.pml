/* The comparison model for SPIN. Macros: N clients, M IOMMUs, FIXED 0 or 1.
 * spin -DN=5 -DM=2 -DFIXED=1 -a comparison.pml && cc -O2 -DSAFETY pan.c -o pan && ./pan -m1000000 -w26 */

#define LOCK(l)   atomic { !(l) -> l = 1 }
#define UNLOCK(l) l = 0

bit probe_lock;
bit published[M];
bit group_lock[N];
bit group[N];
bit domain[N];
bit dma[N];
bit deferred[N];

active proctype registrar()
{
  byte m = 0, d = 0;
  do
  :: m < M ->
     LOCK(probe_lock); published[m] = 1; UNLOCK(probe_lock);
     d = m;
     do
     :: d < N ->
        LOCK(probe_lock);
        if
        :: group[d] -> skip
        :: else -> group[d] = 1
        fi;
        UNLOCK(probe_lock);
        d = d + M
     :: else -> break
     od;
     d = m;
     do
     :: d < N ->
        LOCK(group_lock[d]);
        if
        :: domain[d] -> skip
        :: else -> domain[d] = 1
        fi;
        UNLOCK(group_lock[d]);
        dma[d] = 1;
        d = d + M
     :: else -> break
     od;
     LOCK(probe_lock);
     d_step {
       d = 0;
       do
       :: d < N -> deferred[d] = 0; d++
       :: else -> break
       od;
       d = 0
     }
     UNLOCK(probe_lock);
     m++
  :: else -> break
  od
}

active [N] proctype client()
{
  byte me = _pid - 1;
again:
  LOCK(probe_lock);
  if
  :: published[me % M] -> skip
  :: else ->
     deferred[me] = 1;
     UNLOCK(probe_lock);
     !deferred[me];
     goto again
  fi;
  if
  :: group[me] ->
     UNLOCK(probe_lock);
     if
     :: FIXED ->
        LOCK(group_lock[me]);
        if
        :: domain[me] -> skip
        :: else -> domain[me] = 1
        fi;
        dma[me] = 1;
        UNLOCK(group_lock[me])
     :: else -> skip
     fi
  :: else ->
     group[me] = 1;
     LOCK(group_lock[me]);
     if
     :: domain[me] -> skip
     :: else -> domain[me] = 1
     fi;
     dma[me] = 1;
     UNLOCK(group_lock[me]);
     UNLOCK(probe_lock)
  fi;
  assert(dma[me])
}
