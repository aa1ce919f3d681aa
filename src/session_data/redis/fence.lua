-- Implements the rules of src/session_data/fence.rs in Redis.
--
-- KEYS[1]  the key of the session
-- ARGV[1]  the command: load, save, create or delete
-- ARGV[2]  the epoch of the request, 20 digits; empty without a fence
-- ARGV[3]  the backend; empty if it borrows the session
-- ARGV[4]  the time to live of what is written, in milliseconds
-- ARGV[5]  1 if saves are shared
-- ARGV[6]  the data
-- ARGV[7]  the number of saves when the request has loaded the session; empty if it has not
-- ARGV[8]  1 if the epoch of the request may be wrong
-- ARGV[9]  a unique id of the call: a client may send a call again after its connection has broken
--
-- Returns a status and its values. Epochs are compared as text, because a number in Lua is exact only up
-- to 53 bits.

-- The next epoch, computed on its digits. The greatest one of 64 bits is returned unchanged.
local function next_epoch(epoch)
  if epoch >= '18446744073709551615' then
    return epoch
  end
  local head, last, nines = string.match(epoch, '^(%d*)([0-8])(9*)$')
  return head .. string.char(string.byte(last) + 1) .. string.rep('0', #nines)
end

local key, command, epoch, owner, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if command == 'delete' then
  redis.call('DEL', key)
  redis.call('HSET', key, 'deleted', '1')
  redis.call('PEXPIRE', key, ttl)
  return {'ok'}
end

local stored = redis.call('HMGET', key, 'data', 'epoch', 'owner', 'saves', 'deleted', 'call')
local data, saves = stored[1], stored[4] or '0'
local stored_epoch, stored_owner = stored[2] or '', stored[3] or ''

if stored[5] then
  return {'deleted'}
end
if not data and redis.call('EXISTS', key) == 1 then
  return {'foreign'}
end
if stored_epoch ~= '' and not (#stored_epoch == 20 and string.find(stored_epoch, '^%d+$')) then
  return {'foreign'}
end

if stored[6] == ARGV[9] then
  return {'ok', stored_epoch, stored_owner, saves}
end

if command == 'load' then
  if not data then
    return {'nothing'}
  end
  local unowned = epoch == stored_epoch and stored_owner == '' and owner ~= ''
  if epoch ~= '' and (stored_epoch == '' or epoch > stored_epoch or unowned) then
    redis.call('HSET', key, 'epoch', epoch, 'owner', owner)
    stored_epoch, stored_owner = epoch, owner
  end
  return {'ok', stored_epoch, stored_owner, saves, data}
end

if command == 'create' then
  if data then
    return {'exists'}
  end
elseif data and stored_epoch ~= '' then
  local shared, unchanged = ARGV[5] == '1', ARGV[7] == saves
  if epoch == '' then
    if not shared then
      return {'unfenced'}
    end
    epoch, owner = stored_epoch, stored_owner
  elseif epoch <= stored_epoch then
    local older, may_save = epoch < stored_epoch, owner ~= '' or shared or unchanged
    if stored_owner ~= '' then
      may_save = owner == stored_owner or (owner == '' and shared)
    end
    if may_save and not older then
      if stored_owner ~= '' then
        owner = stored_owner
      end
    elseif ARGV[8] == '1' and unchanged then
      epoch, owner = next_epoch(stored_epoch), ''
    elseif older then
      return {'older', stored_epoch, stored_owner}
    elseif stored_owner ~= '' then
      return {'held', stored_epoch, stored_owner}
    else
      return {'changed'}
    end
  end
end

saves = redis.call('HINCRBY', key, 'saves', 1)
redis.call('HSET', key, 'data', ARGV[6], 'epoch', epoch, 'owner', owner, 'call', ARGV[9])
redis.call('PEXPIRE', key, ttl)
return {'ok', epoch, owner, tostring(saves)}
