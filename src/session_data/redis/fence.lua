-- The rules of src/session_data/fence.rs, inside Redis.
--
-- KEYS[1]  the session
-- ARGV[1]  load, save, create or delete
-- ARGV[2]  the epoch of the request, 20 digits; empty without one
-- ARGV[3]  the backend; empty for one who borrows
-- ARGV[4]  for how long what is written is kept, in milliseconds
-- ARGV[5]  1 when saves are shared
-- ARGV[6]  the data
-- ARGV[7]  how often it had been saved when the request has read it; empty if it has not
-- ARGV[8]  1 when the epoch of the request need not be the right one
-- ARGV[9]  what no other call says: a client may send a call twice when a connection breaks
--
-- The answer is a word, and what belongs to it. Epochs are compared as text: a number in Lua has 53
-- bits.

-- The next epoch, digit by digit; the last one of 64 bits has none.
local function after(epoch)
  if epoch >= '18446744073709551615' then
    return epoch
  end
  local head, last, nines = string.match(epoch, '^(%d*)([0-8])(9*)$')
  return head .. string.char(string.byte(last) + 1) .. string.rep('0', #nines)
end

local key, what, epoch, owner, time = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if what == 'delete' then
  redis.call('DEL', key)
  redis.call('HSET', key, 'deleted', '1')
  redis.call('PEXPIRE', key, time)
  return {'ok'}
end

local kept = redis.call('HMGET', key, 'data', 'epoch', 'owner', 'saves', 'deleted', 'call')
local data, kept_epoch, kept_owner, saves = kept[1], kept[2] or '', kept[3] or '', kept[4] or '0'

if kept[5] then
  return {'deleted'}
end
if not data and redis.call('EXISTS', key) == 1 then
  return {'foreign'}
end
if kept_epoch ~= '' and not (#kept_epoch == 20 and string.find(kept_epoch, '^%d+$')) then
  return {'foreign'}
end

if kept[6] == ARGV[9] then
  return {'ok', kept_epoch, kept_owner, saves}
end

if what == 'load' then
  if not data then
    return {'nothing'}
  end
  local unowned = epoch == kept_epoch and kept_owner == '' and owner ~= ''
  if epoch ~= '' and (kept_epoch == '' or epoch > kept_epoch or unowned) then
    redis.call('HSET', key, 'epoch', epoch, 'owner', owner)
    kept_epoch, kept_owner = epoch, owner
  end
  return {'ok', kept_epoch, kept_owner, saves, data}
end

if what == 'create' then
  if data then
    return {'exists'}
  end
elseif data and kept_epoch ~= '' then
  local shared, unchanged = ARGV[5] == '1', ARGV[7] == saves
  if epoch == '' then
    if not shared then
      return {'unfenced'}
    end
    epoch, owner = kept_epoch, kept_owner
  elseif epoch <= kept_epoch then
    local older, may = epoch < kept_epoch, owner ~= '' or shared or unchanged
    if kept_owner ~= '' then
      may = owner == kept_owner or (owner == '' and shared)
    end
    if may and not older then
      if kept_owner ~= '' then
        owner = kept_owner
      end
    elseif ARGV[8] == '1' and unchanged then
      epoch, owner = after(kept_epoch), ''
    elseif older then
      return {'older', kept_epoch, kept_owner}
    elseif kept_owner ~= '' then
      return {'held', kept_epoch, kept_owner}
    else
      return {'changed'}
    end
  end
end

saves = redis.call('HINCRBY', key, 'saves', 1)
redis.call('HSET', key, 'data', ARGV[6], 'epoch', epoch, 'owner', owner, 'call', ARGV[9])
redis.call('PEXPIRE', key, time)
return {'ok', epoch, owner, tostring(saves)}
