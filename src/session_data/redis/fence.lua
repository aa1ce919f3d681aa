-- The rules of src/session_data/fence.rs, inside Redis.
--
-- KEYS[1]  the session
-- ARGV[1]  load, save, create or delete
-- ARGV[2]  the epoch of the request, 20 digits; empty without one
-- ARGV[3]  the backend; empty for one who borrows
-- ARGV[4]  for how long what is written is kept, in milliseconds
-- ARGV[5]  1 when saves are shared
-- ARGV[6]  the data
--
-- The answer is a word, and what belongs to it. Epochs are compared as text: a number in Lua has 53
-- bits.
local key, what, epoch, owner, time = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if what == 'delete' then
  redis.call('DEL', key)
  redis.call('HSET', key, 'deleted', '1')
  redis.call('PEXPIRE', key, time)
  return {'ok'}
end

local kept = redis.call('HMGET', key, 'data', 'epoch', 'owner', 'deleted')
local data, kept_epoch, kept_owner = kept[1], kept[2] or '', kept[3] or ''

if kept[4] then
  return {'deleted'}
end
if not data and redis.call('EXISTS', key) == 1 then
  return {'foreign'}
end
if kept_epoch ~= '' and not (#kept_epoch == 20 and string.find(kept_epoch, '^%d+$')) then
  return {'foreign'}
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
  return {'ok', kept_epoch, kept_owner, data}
end

if what == 'create' then
  if data then
    return {'exists'}
  end
elseif data and kept_epoch ~= '' then
  if epoch == '' then
    if ARGV[5] ~= '1' then
      return {'unfenced'}
    end
    epoch, owner = kept_epoch, kept_owner
  elseif epoch < kept_epoch then
    return {'older', kept_epoch, kept_owner}
  elseif epoch == kept_epoch and kept_owner ~= '' and owner ~= kept_owner then
    if owner ~= '' or ARGV[5] ~= '1' then
      return {'held', kept_epoch, kept_owner}
    end
    owner = kept_owner
  end
end

redis.call('HSET', key, 'data', ARGV[6], 'epoch', epoch, 'owner', owner)
redis.call('PEXPIRE', key, time)
return {'ok'}
